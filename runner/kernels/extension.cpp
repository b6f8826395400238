// OpenVINO's interface to the kernels: three operations that graphs name as orchestrar's.
#include "openvino/core/extension.hpp"

#include "grouped_matmul.hpp"
#include "openvino/core/op_extension.hpp"
#include "openvino/op/op.hpp"
#include "rotary.hpp"

namespace orchestrar {
namespace {

// Returns the matrix in a constant of bytes; throws ov::Exception if it has not as many as the shape needs.
Weights weights_of(const ov::Tensor& bytes, size_t rows, size_t columns, size_t bits) {
    const Weights weights{bytes.data<const uint8_t>(), rows, columns, bits};
    OPENVINO_ASSERT(bits == 4 || bits == 8, "weights must have 4 or 8 bits, not ", bits);
    OPENVINO_ASSERT(columns > 0 && columns % GROUP == 0, "rows of weights must be whole groups of 32, not ", columns);
    OPENVINO_ASSERT(bytes.get_byte_size() == weights.block_count() * weights.block_bytes(), "weights of ", rows, " x ",
                    columns, " do not have ", bytes.get_byte_size(), " bytes");
    return weights;
}

void replace_last(ov::PartialShape& shape, int64_t last) {
    if (shape.rank().is_static()) shape[shape.size() - 1] = last;
}

// Inputs: activations, weights, then the norm's weight if `epsilon` is not 0, then the residual if `adds`.
class GroupedMatMul : public ov::op::Op {
public:
    OPENVINO_OP("GroupedMatMul", "orchestrar");
    GroupedMatMul() = default;
    explicit GroupedMatMul(const ov::OutputVector& inputs) : Op(inputs) {}

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this, get_input_size() == 2u + (m_epsilon != 0) + m_adds, "a wrong number of inputs");
        ov::PartialShape shape = get_input_partial_shape(0);
        replace_last(shape, m_rows);
        set_output_type(0, ov::element::f32, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        auto copy = std::make_shared<GroupedMatMul>(inputs);
        copy->m_rows = m_rows;
        copy->m_bits = m_bits;
        copy->m_epsilon = m_epsilon;
        copy->m_gated = m_gated;
        copy->m_adds = m_adds;
        copy->constructor_validate_and_infer_types();
        return copy;
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("rows", m_rows);
        visitor.on_attribute("bits", m_bits);
        visitor.on_attribute("epsilon", m_epsilon);
        visitor.on_attribute("gated", m_gated);
        visitor.on_attribute("adds", m_adds);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        ov::Shape shape = inputs[0].get_shape();
        const size_t columns = shape.back() / (m_gated ? 2 : 1);
        shape.back() = m_rows;
        outputs[0].set_shape(shape);
        const Weights weights = weights_of(inputs[1], m_rows, columns, m_bits);
        Around around;
        around.gated = m_gated;
        around.epsilon = m_epsilon;
        if (m_epsilon != 0) around.norm = inputs[2].data<const float>();
        if (m_adds) around.residual = inputs.back().data<const float>();
        const size_t tokens = ov::shape_size(shape) / m_rows;
        if (tokens > 0) multiply(weights, inputs[0].data<const float>(), tokens, around, outputs[0].data<float>());
        return true;
    }

private:
    int64_t m_rows = 0;
    int64_t m_bits = 0;
    float m_epsilon = 0;
    bool m_gated = false;
    bool m_adds = false;
};

// Inputs: row numbers (int32), weights. The output's last dimension is a row of `columns` floats.
class GroupedRows : public ov::op::Op {
public:
    OPENVINO_OP("GroupedRows", "orchestrar");
    GroupedRows() = default;
    explicit GroupedRows(const ov::OutputVector& inputs) : Op(inputs) {}

    void validate_and_infer_types() override {
        ov::PartialShape shape = get_input_partial_shape(0);
        if (shape.rank().is_static()) shape.push_back(m_columns);
        set_output_type(0, ov::element::f32, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        auto copy = std::make_shared<GroupedRows>(inputs);
        copy->m_rows = m_rows;
        copy->m_columns = m_columns;
        copy->m_bits = m_bits;
        copy->constructor_validate_and_infer_types();
        return copy;
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("rows", m_rows);
        visitor.on_attribute("columns", m_columns);
        visitor.on_attribute("bits", m_bits);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        ov::Shape shape = inputs[0].get_shape();
        shape.push_back(m_columns);
        outputs[0].set_shape(shape);
        const Weights weights = weights_of(inputs[1], m_rows, m_columns, m_bits);
        const int32_t* rows = inputs[0].data<const int32_t>();
        float* out = outputs[0].data<float>();
        for (size_t i = 0; i < inputs[0].get_size(); ++i, out += m_columns) {
            OPENVINO_ASSERT(rows[i] >= 0 && rows[i] < m_rows, "there is no row ", rows[i], " of ", m_rows);
            read_row(weights, rows[i], out);
        }
        return true;
    }

private:
    int64_t m_rows = 0;
    int64_t m_columns = 0;
    int64_t m_bits = 0;
};

// Inputs: queries, keys and values in one row, cosines, sines, then the norms of queries and keys if `epsilon` is not 0.
class RotatedHeads : public ov::op::Op {
public:
    OPENVINO_OP("RotatedHeads", "orchestrar");
    RotatedHeads() = default;
    explicit RotatedHeads(const ov::OutputVector& inputs) : Op(inputs) {}

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this, get_input_size() == (m_epsilon != 0 ? 5u : 3u), "a wrong number of inputs");
        set_output_type(0, ov::element::f32, get_input_partial_shape(0));
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        auto copy = std::make_shared<RotatedHeads>(inputs);
        copy->m_queries = m_queries;
        copy->m_keys = m_keys;
        copy->m_size = m_size;
        copy->m_epsilon = m_epsilon;
        copy->constructor_validate_and_infer_types();
        return copy;
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("queries", m_queries);
        visitor.on_attribute("keys", m_keys);
        visitor.on_attribute("size", m_size);
        visitor.on_attribute("epsilon", m_epsilon);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        outputs[0].set_shape(inputs[0].get_shape());
        Heads heads{size_t(m_queries), size_t(m_keys), size_t(m_size), nullptr, nullptr, m_epsilon};
        const size_t tokens = inputs[0].get_size() / heads.width();
        OPENVINO_ASSERT(inputs[0].get_size() == tokens * heads.width(), "rows must have ", heads.width(), " values");
        for (size_t i : {1, 2})
            OPENVINO_ASSERT(inputs[i].get_size() == tokens * heads.size / 2, "each token must have half a head of angles");
        if (m_epsilon != 0) {
            heads.query_norm = inputs[3].data<const float>();
            heads.key_norm = inputs[4].data<const float>();
        }
        rotate(heads, inputs[0].data<const float>(), inputs[1].data<const float>(), inputs[2].data<const float>(), tokens,
               outputs[0].data<float>());
        return true;
    }

private:
    int64_t m_queries = 0;
    int64_t m_keys = 0;
    int64_t m_size = 0;
    float m_epsilon = 0;
};

}  // namespace
}  // namespace orchestrar

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<orchestrar::GroupedMatMul>>(),
     std::make_shared<ov::OpExtension<orchestrar::GroupedRows>>(),
     std::make_shared<ov::OpExtension<orchestrar::RotatedHeads>>()}));
